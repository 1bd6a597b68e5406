"""Contracts of other programs that ipamd serves, and the code generated from them."""
