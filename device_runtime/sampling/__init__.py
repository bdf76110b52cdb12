"""From logits to a token: penalties, filters, noise, log probabilities."""
