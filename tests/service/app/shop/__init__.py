"""A shop: orders in PostgreSQL, card payments by Stripe, receipts in S3, questions answered by a language model, errors to Sentry.

Lives here: a service as a team would write it. May not live here: anything of outpass; it does not know that it is there.
"""
