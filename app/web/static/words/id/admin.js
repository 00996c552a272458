// Indonesian for the view Admin.

export default {};
