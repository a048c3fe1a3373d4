"""What has come of a job's rows, kept on the disk so that each is committed once."""
