"""Entry point of `kubectl finetune`, which kubectl finds as `kubectl-finetune` on the PATH."""

from finetune_cli.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="kubectl finetune")


if __name__ == "__main__":
    main()
