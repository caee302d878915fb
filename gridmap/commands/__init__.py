"""What the `gridmap` command can do, one module each: `add_arguments(parser)`, `main(options)`."""
