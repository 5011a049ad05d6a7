"""A small program with two packages that it did not write. Both use the network; only one was given leave to."""

import slack_sdk
import slack_sdk.errors
import stripe

stripe.api_key = "sk_test_demo"


def main() -> None:
    """Takes a payment, then tells a channel about it."""
    charge = stripe.Charge.retrieve("ch_demo")
    print(f"app: stripe says that {charge['id']} is {charge['status']}")
    try:
        slack_sdk.WebClient(token="xoxb-demo").chat_postMessage(channel="#payments", text="we were paid")
        print("app: slack knows")
    except slack_sdk.errors.SlackApiError as refused:
        print(f"app: slack-sdk got {refused.response.status_code} instead of an answer")
        print(f"app: {refused.response.data.get('detail', refused.response.data)}")


main()
