from django import template

register = template.Library()


@register.filter
def euros(cents):
    """An amount in cents, such as `120 €` or `12,50 €`."""
    text = f"{cents // 100}" if cents % 100 == 0 else f"{cents / 100:.2f}".replace(".", ",")
    return f"{text}\N{NO-BREAK SPACE}€"
