// The view Account, and signing in.

import { registerView } from "./views.js";

registerView("account", {});
