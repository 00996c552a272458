// Indonesian for the view History.

export default {};
