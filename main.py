"""`python main.py` is the command line; `uvicorn main:app` serves with the same configuration. Importing opens nothing."""

from persistence_service.api.app import create_app
from persistence_service.cli.app import main
from persistence_service.cli.serve import open_configured_services

app = create_app(open_configured_services)

if __name__ == "__main__":
    main()
