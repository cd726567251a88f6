from served_bench import models, url

__all__ = ["models", "url"]
