"""The routes, by what they are for."""

BASE_PATH = "/api/v1/translation"
