"""`python -m tbps_cli` is the command `tbps`."""

from tbps_cli.cli.app import main

if __name__ == "__main__":
    main()
