// The view Admin, and its charts.

import { registerView } from "./views.js";

registerView("admin", {});
