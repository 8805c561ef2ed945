"""The backend for MySQL and MariaDB."""
