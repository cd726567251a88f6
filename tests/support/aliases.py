"""A short YAML file that is endless with its aliases written out."""


def laughs(levels: int = 12) -> str:
    """Nine times what the line before stands for, in every line."""
    lines = ["name: &a0 x"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"
