"""Observational dropout: world models that were never asked to predict (Freeman et al. 2019)."""

from rlzoo.agents.observational_dropout.actor_critic import ObsDropoutActorCritic
from rlzoo.agents.observational_dropout.obs_dropout_ppo import ObsDropoutPPO
from rlzoo.agents.observational_dropout.observational_dropout import ObservationalDropout
from rlzoo.agents.observational_dropout.policies import ObsDropoutPolicy

__all__ = ["ObsDropoutActorCritic", "ObsDropoutPPO", "ObsDropoutPolicy", "ObservationalDropout"]
