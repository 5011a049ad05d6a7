"""What differs between the shop's environments.

Lives here: environment variables and their defaults in production. May not live here: clients.
"""

from __future__ import annotations

import os

DATABASE_URL = os.environ.get("DATABASE_URL", "postgresql+psycopg://postgres@db.shop.internal:5432/test")
S3_BUCKET = os.environ.get("S3_BUCKET", "shop-receipts")
S3_ENDPOINT = os.environ.get("S3_ENDPOINT")
"""None: the region's own."""
STRIPE_API_BASE = os.environ.get("STRIPE_API_BASE", "https://api.stripe.com")
STRIPE_KEY = os.environ.get("STRIPE_KEY", "sk_test_shop")
OPENAI_BASE_URL = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
OPENAI_KEY = os.environ.get("OPENAI_API_KEY", "sk-openai-shop")
SENTRY_DSN = os.environ.get("SENTRY_DSN", "https://public@o1.ingest.de.sentry.io/1")
"""Empty: errors go nowhere."""
RATES_URL = os.environ.get("RATES_URL", "https://rates.example.com/latest")
