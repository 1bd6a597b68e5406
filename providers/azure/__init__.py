"""Azure behind `ipamd.cloud.CloudProvider`. Imported by the cloud child alone."""
