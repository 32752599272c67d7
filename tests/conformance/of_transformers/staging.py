"""A pytest plugin: lets transformers' staging tests run, on the Hub at HF_ENDPOINT.

Both libraries read HUGGINGFACE_CO_STAGING, and huggingface_hub would then talk to hub-ci.huggingface.co. So it is
imported first.
"""

import os

import huggingface_hub
from huggingface_hub import constants

os.environ["HUGGINGFACE_CO_STAGING"] = "1"

from transformers import testing_utils

testing_utils.ENDPOINT_STAGING = constants.ENDPOINT
# Some of the tests load what they pushed without naming the token: who pushed is logged in.
huggingface_hub.login(testing_utils.TOKEN, skip_if_logged_in=False)
