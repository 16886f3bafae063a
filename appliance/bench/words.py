"""Common words that most tokenizers hold whole, after a space, as one token. Knows no text that they are used in."""

NOUNS: tuple[str, ...] = tuple(
    """
river harbour garden mountain bridge castle market village forest island valley tower library station engine window
mirror lantern bottle basket candle blanket letter ticket camera compass hammer ladder pocket wallet rocket wagon
kettle pillow carpet curtain drawer shelf table chair clock piano guitar violin trumpet drum flag crown shield sword
ship boat canoe train truck bicycle tractor plane balloon kite sailor farmer doctor teacher painter singer driver
baker hunter tailor captain soldier pilot lawyer judge writer poet editor miner banker nurse chef guard apple orange
lemon cherry peach banana grape onion potato tomato carrot pepper bean rice bread butter cheese honey sugar salt coffee
tea soup salad cake cookie dog cat horse sheep goat rabbit tiger lion bear wolf fox eagle hawk duck goose spider beetle
butterfly shark whale turtle snake frog storm thunder cloud rain snow wind frost fog sunrise sunset moon star planet
comet desert canyon beach cliff cave lake pond stream ocean hill field barn fence gate road tunnel street corner square
church school hospital museum theater hotel bakery kitchen cellar attic roof door stairs chimney fountain statue
monument paper pencil brush paint ink map book diary journal poem song dance story legend puzzle secret promise bargain
journey voyage parade festival wedding birthday harvest winter summer autumn spring morning evening midnight shadow
echo whisper signal message needle thread button ribbon jacket sweater glove boot helmet velvet silk cotton wool
leather copper silver iron steel bronze marble granite crystal diamond pearl amber coral ivory cedar
""".split()  # noqa: SIM905 # a list of quoted words is no easier to read
)

ADJECTIVES: tuple[str, ...] = tuple(
    """
old new quiet loud bright dark narrow wide empty broken golden wooden heavy light sharp smooth rough warm cold wet dry
clean dirty small large tall short round flat hollow solid hidden famous ancient modern gentle fierce proud humble
clever curious lazy busy lonely happy sad angry calm brave silent green blue red white black yellow purple brown pale
distant nearby foreign local royal sacred simple strange
""".split()  # noqa: SIM905 # a list of quoted words is no easier to read
)

VERBS: tuple[str, ...] = tuple(
    """
found carried painted watched followed crossed repaired opened closed visited borrowed promised counted measured
described remembered forgot lifted pushed pulled dropped covered filled washed polished burned guarded chased saved
sold bought traded stole returned hid moved turned touched heard wanted loved feared trusted admired ignored mentioned
praised blamed helped joined left reached entered passed
""".split()  # noqa: SIM905 # a list of quoted words is no easier to read
)
