"""vpc-cnid: the warm half of the CNI plugin. The truth about the kernel, never about addresses.

Imports neither ipamd, nor a provider, nor a cloud SDK; it knows addresses through ipam_api only.
"""
