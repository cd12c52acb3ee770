import tool  # noqa: F401  first: it gives a user without a name one, before torchvision asks for it
