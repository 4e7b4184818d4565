"""How is the site made? `make docs` has Sphinx build it from the Markdown in this directory."""

from celery_flame_ec2 import __version__

project = "celery-flame-ec2"
version = release = __version__
extensions = ["myst_parser"]
exclude_patterns = ["*.py"]

# Anchors as code hosts make them, so that a link to one works there too. One that is not there is an error.
myst_heading_anchors = 4
highlight_language = "text"
smartquotes = False  # --option stays what it is

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
