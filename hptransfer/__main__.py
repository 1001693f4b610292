"""Entry point of `python -m hptransfer`."""

from hptransfer.cli.main import main

if __name__ == "__main__":
    main()
