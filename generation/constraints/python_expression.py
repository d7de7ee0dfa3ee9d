"""A subset of Python's expressions as a grammar."""

# Python's grammar (docs.python.org/3/reference/grammar.html) without what needs lines or a look at names: statements,
# assignment expressions, f-strings, yield and await. White space is written out, as one of Python's own words must not
# run into a name. What follows a number is an operator only: `1.real` and `1if` are none of Python's.
PYTHON_EXPRESSION = r"""
start: " "? tuple "\n"

tuple: expression (comma expression)* ","?
expression: disjunction | disjunction " if " disjunction " else " expression | lambda
lambda: "lambda: " expression | "lambda " NAME (comma NAME)* ": " expression
disjunction: conjunction (" or " conjunction)*
conjunction: inversion (" and " inversion)*
inversion: "not " inversion | comparison
comparison: union (compare union)*
compare: / ?(==|!=|<=|>=|<|>) ?| in | not in | is | is not /
union: arithmetic (/ ?(\||\^|&|<<|>>) ?/ arithmetic)*
arithmetic: factor (/ ?(\+|-|\*|\/\/|\/|%|@) ?/ factor)*
factor: /[+~-]/ factor | power
power: primary | primary / ?\*\* ?/ factor

primary: NUMBER | atom trailer*
trailer: "." NAME | "(" arguments? ")" | "[" subscripts "]"
atom: NAME | STRING | BYTES | CONSTANT | group | list | dict | set
group: "()" | "(" tuple ")" | "(" expression comprehension ")"
list: "[]" | "[" expression (comma expression)* ","? "]" | "[" expression comprehension "]"
set: "{" expression (comma expression)* ","? "}" | "{" expression comprehension "}"
dict: "{}" | "{" pair (comma pair)* ","? "}" | "{" pair comprehension "}"
pair: expression ": " expression
comprehension: (" for " names " in " disjunction (" if " disjunction)*)+
names: NAME (comma NAME)*
arguments: expression comprehension | expression (comma expression)* (comma keyword)* | keyword (comma keyword)*
keyword: NAME "=" expression
subscripts: subscript (comma subscript)*
subscript: expression | expression? ":" expression? (":" expression?)?
comma: /, ?/

NAME: /[A-Za-z_][A-Za-z0-9_]*/ & ~KEYWORD
KEYWORD: /False|None|True|__debug__|and|as|assert|async|await|break|class|continue|def|del|elif|else|except/ | REST
REST: /finally|for|from|global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield/
CONSTANT: /True|False|None/
NUMBER: /0|[1-9][0-9]*|0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?/
STRING: /"([^"\\\r\n\x00]|\\[\\'"abfnrtv])*"|'([^'\\\r\n\x00]|\\[\\'"abfnrtv])*'/
BYTES: /b"([ !#-\[\]-~]|\\[\\'"abfnrtv])*"|b'([ -&(-\[\]-~]|\\[\\'"abfnrtv])*'/
"""
