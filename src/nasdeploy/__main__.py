"""Run the command line as ``python -m nasdeploy``."""

from nasdeploy.pipeline.cli import main

main()
