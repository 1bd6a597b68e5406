"""Words in ReleaseRequest.reason that mean something to ipamd; all others are for people alone."""

LOST_DEL = "lost DEL"
"""How the reason starts where vpc-cnid ended an attachment whose DEL the runtime lost."""
