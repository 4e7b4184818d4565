"""Runners that are EC2 instances."""

from __future__ import annotations

from .backend import Ec2Backend

__all__ = ("Ec2Backend",)
