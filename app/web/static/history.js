// The view History.

import { registerView } from "./views.js";

registerView("history", {});
