#!/usr/bin/env python3
"""What happens on an instance between power-on and its release? Standard library only, Python 3.9 or newer."""

DOCUMENT = "{}"
