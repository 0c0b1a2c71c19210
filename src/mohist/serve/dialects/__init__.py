"""One module for each way of speaking to the server; each has `routes(service) -> APIRouter`."""
