"""Many rows in one statement: a JSON array that the database unpacks.

One round trip and one parameter whatever the number of rows, and the cheapest way there is
for Python on SQLite and PostgreSQL alike.
"""

from collections.abc import Mapping

#: Column types as PostgreSQL names them; SQLite takes what JSON says.
Columns = Mapping[str, str]


def rows_from_json(dialect: str, columns: Columns, parameter: str = "rows") -> str:
    """Give a SELECT with the named columns over the JSON array in `:parameter`."""
    if dialect == "sqlite":
        fields = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
        return f"SELECT {fields} FROM json_each(:{parameter})"
    fields = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    return f"SELECT * FROM json_to_recordset(CAST(:{parameter} AS json)) AS r({fields})"
