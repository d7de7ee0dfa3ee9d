"""How fast is a bundle here, and how near is that to what the machine can do?"""
