"""What the fault tests kill: `faults_run.py CONFIG FOLDER STAGE...`; `bench` measures `roles.target`. Ends as
the command line does."""

import sys
from pathlib import Path

from safer_steer import pipeline
from safer_steer.config.file import load_config
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.errors import UserError
from safer_steer.run import measuring
from safer_steer.run.display import Display


def main(config: Path, folder: Path, stages: list[str]) -> None:
    EndpointTransport.first_wait_s = 0.02  # a test cannot wait as long as a real endpoint wants
    try:
        for stage in stages:
            with Display() as show:
                if stage == "bench":
                    measuring.bench_endpoints(load_config(config), folder, show, name="served")
                else:
                    pipeline.run_stage(stage, load_config(config), folder, show)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
