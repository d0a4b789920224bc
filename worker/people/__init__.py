"""What is known of people: attributes, tags, time zone, and what they do not want to get."""
