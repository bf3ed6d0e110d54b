"""Desired children as plain manifests: names, labels, Deployments, Services."""
