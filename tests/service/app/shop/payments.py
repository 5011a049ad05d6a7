"""Card payments.

Lives here: Stripe's client. May not live here: orders.
"""

from __future__ import annotations

import stripe

from shop import settings

client = stripe.StripeClient(settings.STRIPE_KEY, base_addresses={"api": settings.STRIPE_API_BASE}, max_network_retries=0)


def charge(cents: int, item: str) -> str:
    """The id of the payment."""
    return client.v1.payment_intents.create({"amount": cents, "currency": "eur", "description": item}).id
