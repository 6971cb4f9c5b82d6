from tests import typed as typed
