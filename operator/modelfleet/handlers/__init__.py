"""The process `operator`, and the only room that knows Kopf."""
