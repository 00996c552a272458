// The page: its views, each of which registers itself.

import "./account/account.js";
import "./admin/admin.js";
import "./history/history.js";
import { startRemove } from "./remove/remove.js";
import { startSession } from "./session.js";
import { startViews } from "./views.js";
import { startWords } from "./words.js";

startWords();
const signedIn = startSession();
startRemove();
const hasJustSignedIn = await signedIn;
startViews({ takesFocus: hasJustSignedIn });
