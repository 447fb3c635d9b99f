"""How the API and the controller speak to Prefect: submit, read and change flow runs."""
