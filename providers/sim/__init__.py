"""The emulated clouds, the kernel fabric under them, and the lab that runs nodes on both.

Written from the clouds' documents, never from our providers, so that each can judge the other.
"""
