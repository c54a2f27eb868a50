"""Real environments and the ledger of their steps."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.real.api_check import check_real as check_real
    from world_env.real.env_config import AnyEnv as AnyEnv, as_env_config as as_env_config
    from world_env.real.real_env import (
        make_real as make_real,
        make_real_vec as make_real_vec,
        spec_of as spec_of,
    )
    from world_env.real.step_ledger import (
        PURPOSES as PURPOSES,
        Purpose as Purpose,
        StepLedger as StepLedger,
    )

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
