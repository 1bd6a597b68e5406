"""`python -m ipamd` is the `ipamd` program."""

from ipamd.app import main

main()
