"""The files of a batch: claims, heartbeats, answers, and their merge."""
