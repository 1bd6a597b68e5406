"""The clouds: real ones behind `ipamd.cloud.CloudProvider`, and the emulated ones in `sim`."""
