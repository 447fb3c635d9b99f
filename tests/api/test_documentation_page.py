"""The documentation page works with no outside network, and every route documents its errors."""

import re


def test_the_page_loads_only_from_here(client):
    page = client.get("/api/docs")
    assert page.status_code == 200
    references = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert references
    for reference in references:
        assert reference.startswith("/api/static/")
        assert client.get(reference).status_code == 200
    assert "//" not in re.sub(r"</?\w+|http://localhost\S*|//.*?\n", "", "".join(references))


def test_every_operation_documents_the_one_error_shape(client):
    schema = client.get("/api/openapi.json").json()
    operations = [
        operation for name, path in schema["paths"].items() for operation in path.values() if name.startswith("/api/")
    ]
    assert len(operations) >= 13
    for operation in operations:
        for status in ("404", "422", "503"):
            content = operation["responses"][status]["content"]["application/json"]["schema"]
            assert content == {"$ref": "#/components/schemas/ErrorResponse"}


def test_the_page_understands_our_openapi_version(client):
    version = client.get("/api/openapi.json").json()["openapi"]
    assert version.startswith("3.1")
    # Swagger UI before version 5 shows an error instead of the page.
    assert "isOAS31" in client.get("/api/static/swagger-ui/swagger-ui-bundle.js").text
