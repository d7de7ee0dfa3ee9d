"""The server on several machines: one module for each program that starts and watches its replicas."""
