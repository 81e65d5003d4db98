"""What a provider is judged by: the laws, the stand-ins they run against, and the pytest plugin that ships them."""
