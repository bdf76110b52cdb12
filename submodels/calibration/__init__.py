"""What a split measures of its model's hidden states, by a short text through all layers."""
