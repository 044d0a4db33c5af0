"""Pages of the gateway: status, OpenAPI document, dashboard, files and batches."""
