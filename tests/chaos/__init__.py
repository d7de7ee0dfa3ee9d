"""Faults at every call that changes a disk: errors, kills, full disks, and readers beside a writer."""
