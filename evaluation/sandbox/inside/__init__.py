"""What runs inside the sandbox. Only the standard library and the modules `frames`, `job` and `values` may be imported.

A program costs three forks. The zygote (`server`) forks a keeper, which makes the namespaces, watches the clock and the
output, and forks a warden; the warden is process 1 of the program's own process namespace, gives up its privileges,
and forks the program's process (`candidate`). When the warden ends, the kernel ends everything in that namespace.
"""
